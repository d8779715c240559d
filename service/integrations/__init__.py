"""The tagger inside other people's programs: a spaCy component, a recogniser for Presidio.

They stand here, and not in model/, because the core knows nothing of those who use it. Each file
imports its own library only, which is an extra: ``pip install "nametag[spacy]"``, ``"nametag[presidio]"``.
"""
