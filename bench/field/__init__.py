"""Trained models that people published in packages: fetched by name, brought like anybody's, and tabulated.

    python -m bench.field magika centerface     some of them (default: all), as `make field ONLY="..."`

models.tsv names the models, NAME.toml says what the inputs of some are, package.py fetches packages and takes their
files out, __main__.py brings them and writes the table. Nothing of the packages is kept in the repository.
"""
