"""A tf.data service, a dispatcher and two workers, until it is killed.

In a process of its own: within one that goes on, stopping the servers can hang.
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
