"""A throw-away Kubernetes cluster on one machine: control plane, S3 server and a node that runs pods as processes."""
