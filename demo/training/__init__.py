"""How the demo models were made. Run `python demo/training/train.py --help`; the pack itself never imports this."""
