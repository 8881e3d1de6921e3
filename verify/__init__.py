"""Does an artifact still answer like its source? What is asked, the comparison, and where and why it differs."""
