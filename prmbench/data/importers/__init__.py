"""Importers: public data sets, turned into the files that the rest of prmbench reads."""
