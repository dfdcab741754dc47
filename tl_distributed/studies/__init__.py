"""The study: several ways of training, compared on equal terms."""
