"""What carries a build out: threads of this process, or Apache Beam."""
