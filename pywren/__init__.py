"""Run your Python functions over thousands of inputs, in the cloud or on this machine."""
