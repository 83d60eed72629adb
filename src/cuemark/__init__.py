"""cuemark: when does this happen in the video?"""
