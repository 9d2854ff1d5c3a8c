"""Table and plots of a study from what lies under outputs/: python experiments/report.py study=NAME"""

from __future__ import annotations

from pathlib import Path

import hydra
from omegaconf import DictConfig

from pcg.runner import cli, report


@hydra.main(version_base="1.3", config_path=cli.CONF, config_name="report")
def main(config: DictConfig) -> None:
    report.show(Path(config.paths.outputs) / config.study)


if __name__ == "__main__":
    with cli.clear_errors("report", check=None):
        main()
