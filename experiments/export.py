"""A trained draft as a folder that vLLM reads: python experiments/export.py draft=eagle draft.path=FOLDER out=NEW"""

from __future__ import annotations

import hydra
from omegaconf import DictConfig

from pcg.command import cli
from pcg.studies import export


@hydra.main(version_base="1.3", config_path=cli.CONF, config_name="export")
def main(config: DictConfig) -> None:
    cli.carry_out(lambda: export.write(cli.plain(config)))


if __name__ == "__main__":
    with cli.clear_errors("export", export.check):
        main()
