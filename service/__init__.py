"""The REST service: HTTP in and out around model.tagger. Never imports training, gensim or torch."""
