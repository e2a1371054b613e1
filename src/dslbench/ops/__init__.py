"""The heavy operations, as small modules over kernels of ours; costs are counted on them."""
