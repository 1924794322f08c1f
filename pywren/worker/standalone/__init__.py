"""The stand-alone worker, which takes calls from an SQS queue and runs them on the machine where it runs."""
