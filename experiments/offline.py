"""Acceptance and distortion of every rule from one teacher-forced pass: python experiments/offline.py [overrides]"""

from __future__ import annotations

import hydra
from omegaconf import DictConfig

from pcg.command import cli
from pcg.studies import offline


@hydra.main(version_base="1.3", config_path=cli.CONF, config_name="offline")
def main(config: DictConfig) -> None:
    cli.carry_out(lambda: offline.study(cli.plain(config)))


if __name__ == "__main__":
    with cli.clear_errors("offline", offline.check):
        main()
