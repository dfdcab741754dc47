"""From images to verified TFRecord shards."""
