"""Log finished results again, after an outage or to another project: python experiments/relog.py study=NAME"""

from __future__ import annotations

import hydra
from omegaconf import DictConfig

from pcg.command import cli, relog


@hydra.main(version_base="1.3", config_path=cli.CONF, config_name="relog")
def main(config: DictConfig) -> None:
    cli.carry_out(lambda: relog.again(cli.plain(config)))


if __name__ == "__main__":
    with cli.clear_errors("relog", check=relog.check):
        main()
