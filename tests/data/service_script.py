"""Runs the dispatcher and two workers of a tf.data service until it is killed.

The servers run in a separate process, because stopping them can block the process.
"""

import time

import tensorflow as tf

service = tf.data.experimental.service
dispatcher = service.DispatchServer()
config = service.WorkerConfig(
    dispatcher_address=dispatcher.target.split("://")[1], heartbeat_interval_ms=50
)
workers = [service.WorkerServer(config) for _ in range(2)]
print(dispatcher.target, flush=True)
time.sleep(600)
