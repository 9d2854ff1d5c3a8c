"""The paper's ablation, tokens swapped inside their groups: python experiments/substitute.py [overrides]"""

from __future__ import annotations

import hydra
from omegaconf import DictConfig

from pcg.command import cli
from pcg.studies import substitute


@hydra.main(version_base="1.3", config_path=cli.CONF, config_name="substitute")
def main(config: DictConfig) -> None:
    cli.carry_out(lambda: substitute.study(cli.plain(config)))


if __name__ == "__main__":
    with cli.clear_errors("substitute", substitute.check):
        main()
