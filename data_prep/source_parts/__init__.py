"""What sources are made of: containers, the layout of folders, drawing."""
