"""The shared core: what training and serving both need, written once.

Knows no FastAPI, no gensim and no environment variable; importing it imports no torch.
"""
