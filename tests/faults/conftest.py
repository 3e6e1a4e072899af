from tests.faults.servers import faulty, fresh_bucket, plain_client, s3_server  # noqa: F401
