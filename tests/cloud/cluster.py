"""Starts a Ray cluster of a head, which works on nothing, and two workers, each a node with its own processes. Prints the
address of the head; then, for each line on standard input, kills the node of one more worker and prints its ID. Ends when
standard input ends.
"""

import sys

from ray.cluster_utils import Cluster

head = {"num_cpus": 0, "include_dashboard": False, "object_store_memory": 80_000_000}
cluster = Cluster(initialize_head=True, head_node_args=head)
workers = [cluster.add_node(num_cpus=2, object_store_memory=80_000_000) for _ in range(2)]
cluster.wait_for_nodes()
print(cluster.address, flush=True)
for _ in sys.stdin:
    worker = workers.pop()
    cluster.remove_node(worker, allow_graceful=False)
    print(worker.node_id, flush=True)
cluster.shutdown()
