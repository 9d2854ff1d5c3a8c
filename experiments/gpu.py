"""How far a GPU's passes and rounds are from what its memory allows: python experiments/gpu.py [overrides]"""

from __future__ import annotations

import hydra
from omegaconf import DictConfig

from pcg.command import cli
from pcg.studies import gpu


@hydra.main(version_base="1.3", config_path=cli.CONF, config_name="gpu")
def main(config: DictConfig) -> None:
    cli.carry_out(lambda: gpu.measure(cli.plain(config)))


if __name__ == "__main__":
    with cli.clear_errors("gpu", gpu.check):
        main()
