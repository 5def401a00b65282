"""The Segment Anything model (arXiv 2304.02643) as functions of flat weights."""
