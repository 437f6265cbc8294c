"""A Ray cluster of two nodes in one machine, with a declared GPU each, until the standard input ends."""

import sys

from ray.cluster_utils import Cluster

cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 2, "num_gpus": 1, "include_dashboard": False})
cluster.add_node(num_cpus=2, num_gpus=1)
print("address", cluster.address, flush=True)
sys.stdin.read()
cluster.shutdown()
