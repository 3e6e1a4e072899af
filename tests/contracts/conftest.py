from tests.faults.servers import fresh_bucket, plain_client, s3_server  # noqa: F401
