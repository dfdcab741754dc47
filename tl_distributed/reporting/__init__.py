"""What a run shows: progress, TensorBoard, plots, figures of merit."""
