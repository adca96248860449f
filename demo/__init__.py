"""The embedded world: small photos, two small image models trained by the scripts in `training/`, and their loader."""
