"""Tell of runs, probes and benchmarks in one HTML page that can be sent to anyone: it needs no other file.

python finetune/report.py runs/mae runs/classifier probes/mae benchmarks/digits --out report.html

Unfinished runs are shown as far as they have come; what a folder lacks is said in the page.
"""

import sys
from pathlib import Path

from finetune.report_config import ReportConfig
from launch.settings import parse_options


def main() -> int:
    """The exit code: 0, 2 for what the user can put right, 1 for what the machine did."""
    config = parse_options(__doc__ or "", ReportConfig)
    from finetune.report_folders import read_folder
    from launch.atomic import write_atomically
    from launch.console import Console

    console = Console()
    out = Path(config.out)
    try:
        folders = [read_folder(where) for where in config.folders]
        from finetune.report_page import build_page  # neither --help nor a refusal waits for torch

        page = build_page(folders, config.images, console.say)
        out.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(out, page)
    except ValueError as error:
        print(f"report.py: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        print(f"report.py: {error}", file=sys.stderr)
        return 1
    console.say(f"report: {out} ({out.stat().st_size / 1e6:.2f} MB)")
    return 0


if __name__ == "__main__":
    sys.exit(main())
