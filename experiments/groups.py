"""The groups of a target's tokens as a file for an engine: python experiments/groups.py target=NAME out=FILE"""

from __future__ import annotations

import hydra
from omegaconf import DictConfig

from pcg.command import cli
from pcg.studies import groups


@hydra.main(version_base="1.3", config_path=cli.CONF, config_name="groups")
def main(config: DictConfig) -> None:
    cli.carry_out(lambda: groups.write(cli.plain(config)))


if __name__ == "__main__":
    with cli.clear_errors("groups", groups.check):
        main()
