"""Log finished results again, after an outage or to another project: python experiments/relog.py study=NAME"""

from __future__ import annotations

from pathlib import Path

import hydra
from omegaconf import DictConfig

from pcg.command import cli
from pcg.runner import run


@hydra.main(version_base="1.3", config_path=cli.CONF, config_name="relog")
def main(config: DictConfig) -> None:
    run.log_again(Path(config.paths.outputs) / config.study, cli.plain(config)["logger"])


if __name__ == "__main__":
    with cli.clear_errors("relog", check=None):
        main()
