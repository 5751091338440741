"""Step 4: what a hypervisor says of its nodes, one module or package a driver."""
