"""Table, plots and page of one study, or of several side by side: python experiments/report.py study=NAME[,NAME]"""

from __future__ import annotations

import hydra
from omegaconf import DictConfig

from pcg.command import cli
from pcg.report import report


@hydra.main(version_base="1.3", config_path=cli.CONF, config_name="report")
def main(config: DictConfig) -> None:
    cli.carry_out(lambda: report.show_studies(cli.plain(config)))


if __name__ == "__main__":
    cli.take_lists("study")
    with cli.clear_errors("report", check=report.check):
        main()
