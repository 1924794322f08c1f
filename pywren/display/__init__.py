"""What people look at: progress bars, summaries, costs, timelines, and objects in notebooks."""
