"""stub"""


def bind(net, mode, size):
    """stub"""
    return None
