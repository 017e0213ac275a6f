"""What ``vmt refine`` does: frames, one video, the work folder, the whole file, its report."""
