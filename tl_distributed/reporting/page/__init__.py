"""Pages of one HTML file, which need no network: templates, charts, thumbnails."""
