"""``python -m dbsec`` and the ``dbsec`` command."""

from __future__ import annotations


def main() -> None:
    """Run the command line on ``sys.argv``."""
    from dbsec.cli.start import run

    run()


if __name__ == "__main__":
    main()
