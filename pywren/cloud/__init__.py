"""The resources in an AWS account: plans to create and delete them, policies, runtimes, logs and diagnosis."""
