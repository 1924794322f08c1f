"""What pywren asks of AWS beside storage: calls, functions, queues, logs, deployment."""
