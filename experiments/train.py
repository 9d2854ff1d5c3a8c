"""One stage of making the bundled pair: python experiments/train.py trainer=STAGE; conf/train.yaml lists them."""

from __future__ import annotations

import hydra
import torch
from omegaconf import DictConfig

from pcg.command import cli
from pcg.config.build import build


@hydra.main(version_base="1.3", config_path=cli.CONF, config_name="train")
def main(config: DictConfig) -> None:
    torch.set_num_threads(config.threads)
    build(cli.plain(config)["trainer"]).run()


if __name__ == "__main__":
    with cli.clear_errors("train", check=None):
        main()
