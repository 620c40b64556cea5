"""How it stays private: errors, clipping, noise, accounting, the ledger and the secure sum.

This room imports nothing of ours and no Flower: it can be proven, tested and attacked without
a network. What may cross a site's border is defined here and nowhere else.
"""
