"""Object stores: S3 and a local folder behind one protocol, and what the job does with them.

`open_store` is how a stage begins; `publish` and `checkpoints` say in which order things are written.
boto3 is imported in `client.py` alone and botocore's errors are read in `failures.py` alone.
"""
