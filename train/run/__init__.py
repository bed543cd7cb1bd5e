"""The run itself: plan, loop, devices, what it shows and records."""
