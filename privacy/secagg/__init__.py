"""The secure sum: the coordinator learns the sum of the sites' integers and nothing else.

`fedsa/1` is batched Bonawitz: double masking, Shamir, a signed consistency round, fresh keys for
every round of an epoch, everything signed under a member-signed roster and salted by the hash
of the whole round plan. `site` and `coordinator` are state machines on bytes: no Flower, no
clock, no files but the round counter. `plain` adds without masks and says so in its name;
`encoding` proves that no sum can overflow.

Source: Bonawitz et al. 2017 (ePrint 2017/281).
"""
