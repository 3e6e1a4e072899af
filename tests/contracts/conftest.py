from tests.faults.servers import fresh_bucket, s3_server  # noqa: F401
