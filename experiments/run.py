"""One run, or with -m a sweep: python experiments/run.py [-m] [overrides]; conf/run.yaml lists the keys."""

from __future__ import annotations

import hydra
from omegaconf import DictConfig

from pcg.command import cli


@hydra.main(version_base="1.3", config_path=cli.CONF, config_name="run")
def main(config: DictConfig) -> float | None:
    return cli.execute(config)


if __name__ == "__main__":
    with cli.clear_errors("run"):
        main()
