"""Trained models as files: packaging, opening, predictions, scores, other formats."""
