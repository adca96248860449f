"""The templates and blueprints that a script makes, as code: `python dev.py run tools/workflows/make.py`."""
