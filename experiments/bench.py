"""Speed against transformers' assisted generation and against the ideal: python experiments/bench.py [overrides]"""

from __future__ import annotations

import hydra
from omegaconf import DictConfig

from pcg.command import cli
from pcg.studies import bench


@hydra.main(version_base="1.3", config_path=cli.CONF, config_name="bench")
def main(config: DictConfig) -> None:
    cli.carry_out(lambda: bench.compare(cli.plain(config)))


if __name__ == "__main__":
    with cli.clear_errors("bench", bench.check):
        main()
