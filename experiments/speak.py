"""Say a text, written as audio while it is made: python experiments/speak.py "Good morning." [overrides]"""

from __future__ import annotations

import hydra
from omegaconf import DictConfig

from pcg.command import cli
from pcg.runner import speak


@hydra.main(version_base="1.3", config_path=cli.CONF, config_name="speak")
def main(config: DictConfig) -> None:
    cli.carry_out(lambda: speak.say(cli.plain(config) | text), "what was said until then is written")


if __name__ == "__main__":
    text = cli.take_text("speak")
    with cli.clear_errors("speak", lambda config: speak.check(config | text)):
        main()
