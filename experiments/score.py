"""Score a finished run's audio anew: python experiments/score.py run=outputs/STUDY/RUN_ID metrics=paper"""

from __future__ import annotations

import hydra
from omegaconf import DictConfig

from pcg.command import cli
from pcg.runner import rescore


@hydra.main(version_base="1.3", config_path=cli.CONF, config_name="score")
def main(config: DictConfig) -> None:
    cli.carry_out(lambda: rescore.rescore(cli.plain(config)), "what was scored is kept; the same command goes on")


if __name__ == "__main__":
    with cli.clear_errors("score", rescore.check):
        main()
