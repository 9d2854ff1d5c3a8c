"""One stage of making the bundled pair: python experiments/train.py trainer=STAGE; conf/train.yaml lists them."""

from __future__ import annotations

import sys

import hydra
import torch
from omegaconf import DictConfig

from pcg.command import cli
from pcg.config import validate
from pcg.runner.stage import run_stage


@hydra.main(version_base="1.3", config_path=cli.CONF, config_name="train")
def main(config: DictConfig) -> None:
    sys.argv[0] = __file__  # what Lightning starts once more for each further device
    torch.set_num_threads(config.threads)
    cli.carry_out(lambda: run_stage(cli.plain(config)["trainer"]), "the same command goes on from here")


if __name__ == "__main__":
    with cli.clear_errors("train", check=validate.check_trainer):
        main()
